"""What callers are answered: for the document and its tests, never run over a real answer."""
