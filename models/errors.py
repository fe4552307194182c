# SPDX-License-Identifier: Apache-2.0
"""The one exception for mistakes that a user can make and mend."""


class EdgemoeError(Exception):
    """Says in one line what is wrong, what was expected and what to do. The command line prints it without a traceback."""
