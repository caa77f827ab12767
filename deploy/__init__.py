"""Tools that run the system on one machine, and stand-ins for the outside world."""
