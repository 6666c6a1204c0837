# SPDX-License-Identifier: MIT
"""The documentation, and what writes its generated pages; `make docs` runs it."""
