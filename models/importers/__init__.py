# SPDX-License-Identifier: Apache-2.0
"""From the checkpoints that people have to ours.

A file becomes named tensors (`sources`); the layout that its names show renames them to those of timm, which ours are
(`layouts`); what the trunk has no place for is folded into what it has, or refused (`vit`). Edge-MoE's folder of raw
files is a model of its own (`edge_moe`).
"""
