# SPDX-License-Identifier: Apache-2.0
"""One picture through a model, looked at from all sides: `gather` finds what there is, `page` shows it."""
