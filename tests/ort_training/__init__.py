# SPDX-License-Identifier: MIT
"""Programs for the environment of onnxruntime-training 1.19.2, which `test_ort_training_*` run."""
