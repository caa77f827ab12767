"""The core: decide in memory, write in sets (architecture 2).

``commands`` say what is wanted, ``rules`` decide (pure), ``book`` loads and saves,
``executor`` carries many commands in one transaction.
"""
