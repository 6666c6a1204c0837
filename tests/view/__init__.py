# SPDX-License-Identifier: MIT
"""Tests of what Netron shows, in an environment with a browser: `make test-view`."""
