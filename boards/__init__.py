# SPDX-License-Identifier: Apache-2.0
"""Boards: `facts` says what each one is, `flows` make its folder and its bitstream, `kit` what every folder
holds."""
