# SPDX-License-Identifier: MIT
"""The test suite: one float64 reference, one table of cases, one tolerance rule."""
