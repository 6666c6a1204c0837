# SPDX-License-Identifier: MIT
"""Small models, the table that they are made of, and what runs them."""
