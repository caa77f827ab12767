"""Python runs this at the start of each process of the local stack (it is first on PYTHONPATH).

The kernel ends a tethered process with its parent, but not the processes that it forks in turn:
this makes those follow too, whatever program it is, and without a line about it in the services.
"""

import os

if "ARRAKIS_TETHER" in os.environ:
    from deploy.local.tether import follow_parent

    follow_parent()
