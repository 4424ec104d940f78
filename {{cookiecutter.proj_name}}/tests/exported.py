"""Whether a model does the same when it is compiled, and when it is exported to ONNX."""

import importlib.util
import io

import torch

from tests import slow

_ONNX = ("onnx", "onnxscript", "onnxruntime")


@slow
def check_compiled_and_exported(test, model, image):
    """Compare a model's output, within 1e-4 of its largest value, with that of its compiled and its exported form."""
    model.eval()
    with torch.no_grad():
        expected = model(image)
        found = {"compiled": torch.compile(model)(image)}
    missing = [name for name in _ONNX if importlib.util.find_spec(name) is None]
    if missing:
        test.skipTest(f"ONNX: {', '.join(missing)} not installed")
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(model, (image,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: image.numpy()}
    found["exported"] = torch.from_numpy(session.run(None, inputs)[0])
    for name, output in found.items():
        error = (output - expected).abs().max() / expected.abs().max()
        test.assertLess(error.item(), 1e-4, name)
