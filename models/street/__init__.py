# SPDX-License-Identifier: Apache-2.0
"""What generated street scenes are made of: `canvas` the camera and its picture, `layout` the plan, `ground`,
`buildings` and `things` what is drawn."""
