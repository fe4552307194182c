# SPDX-License-Identifier: Apache-2.0
"""Numbers: word lengths and formats."""
