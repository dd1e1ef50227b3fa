"""Thresholds the first channel at the mean; `info` tells the parameters and how many pixels are above it."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        param = pb_utils.get_input_tensor_by_name(request, "param")
        parameters = json.loads(param.as_numpy().item()) if param is not None else {}
        mask = (image[:1] > image[0].mean()).astype(np.uint16)
        info = json.dumps({"parameters": parameters, "pixels": int(mask.sum())})
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("mask", mask), pb_utils.Tensor("info", np.array([info.encode()], dtype=np.object_))]
        )
