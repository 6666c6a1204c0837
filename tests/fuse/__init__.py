# SPDX-License-Identifier: MIT
"""Losses as exporters write them: recorded models, the scripts that made them, what they become."""
