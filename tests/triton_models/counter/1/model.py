"""Keeps one sum for each sequence."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        def value(name):
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy().item()

        sequence = value("CORRID")
        total = (0.0 if value("START") else self.sums[sequence]) + value("value")
        self.sums[sequence] = total
        if value("END"):
            del self.sums[sequence]
        return pb_utils.InferenceResponse([pb_utils.Tensor("sum", np.array([[total]], np.float32))])
