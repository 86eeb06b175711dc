"""A chat as the house asks for it, whichever API the call came by."""
