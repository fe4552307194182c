# SPDX-License-Identifier: Apache-2.0
"""`python -m edgemoe.host.cli`: the command line without its launcher."""

from edgemoe.host.cli.start import main

if __name__ == "__main__":
    main()
