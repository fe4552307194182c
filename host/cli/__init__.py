# SPDX-License-Identifier: Apache-2.0
"""The command line: `start` runs a command and says how it ended, `commands` puts together what it can do."""
