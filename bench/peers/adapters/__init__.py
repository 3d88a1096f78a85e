"""One module a system; ``adapter()`` returns its adapter, see ``driver.Adapter``."""
