# SPDX-License-Identifier: Apache-2.0
"""Formal verification: properties of units, proven for all inputs within a bound (yowasp-sby and Z3)."""
