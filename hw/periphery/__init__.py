# SPDX-License-Identifier: Apache-2.0
"""Around the core on boards without a processor: the serial link and the SDRAM controller;
`hw/system.py` wires them.
"""
