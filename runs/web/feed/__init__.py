"""The live feed: every reader of a run, over any wire, follows it by a cursor.

The table is the truth, messages only save time. A reader has a position and takes what comes after
it: from the run's tail, a short piece of recent log that all readers of this process share, or else
from the table. So nothing is sent twice or left out, slow readers fall back to the table, and there
is no queue that could grow.

    frames, cursor   a frame and a position on the wire
    rights           who may read, asked again every few seconds
    reading          what is read of the database
    texts            the answers that a run's models are writing
    tail             the recent log of each followed run, its snapshot, what is in flight
    refresh          reads what is stale, and polls
    inbox            receives what the runs of this process do, and messages of other processes
    waiters          requests that wait for the end of a run
    limits           the places and the unsent bytes of each user
    hub              brings these together for the readers of one loop
    follower         a reader of a run, or of a tree
    listing          a reader of the list of runs

A module imports only from those above it. Everything here runs on one event loop, the web server's;
nothing here writes a row.
"""

from .cursor import Cursor, InvalidCursor
from .follower import Follower
from .frames import Frame, View
from .hub import Hub, Reader, close_hub, get_hub, open_count, unsent_bytes, waiting_count
from .limits import NoPlace, Place
from .listing import ListFollower
from .rights import RightLost, Viewer

__all__ = [
    "Cursor",
    "Follower",
    "Frame",
    "Hub",
    "InvalidCursor",
    "ListFollower",
    "NoPlace",
    "Place",
    "Reader",
    "RightLost",
    "View",
    "Viewer",
    "close_hub",
    "get_hub",
    "open_count",
    "unsent_bytes",
    "waiting_count",
]
