"""How a process serves HTTP and sockets, and hosts its worker: the ASGI applications."""
