# SPDX-License-Identifier: MIT
"""Differential tests against the real frameworks, each in an environment of its own."""
