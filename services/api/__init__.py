"""What loa-finn, members and admins call over HTTP."""
