"""The live feed: everybody who watches a run, over whatever wire, follows it by one cursor.

The table is the truth, messages only save time. A follower has a position and takes what lies
behind it: from the run's tail, a short piece of recent log that all followers of this process
share, or else from the table. So nothing is sent twice or left out, whoever reads slowly falls back
to the table, and there is no queue that could grow.

    reading    what is read of the database, in threads of its own
    tail       the end of one run's log, its snapshot, what is in flight
    texts      what its models are saying
    follower   one reader: its positions, and the frames that it gets next
    listing    a reader of the list of runs
    pages      logs read from the table, shared by those who are behind the tails
    tails      the tails of this process
    hearing    news of this process's runs, and of others'
    watching   text of runs that are in other processes
    catching_up    reading what is stale, and looking for what nobody told of
    hub        what all readers share: coming and going, rights
    rights     who is watching, and whether they still may
    cursor, frames    how a position and a frame look on the wire

Everything here runs on one event loop, the web server's; nothing here writes a row.
"""

from .cursor import Cursor, InvalidCursor
from .follower import Follower, RunIsGone
from .frames import Batch, Frame, View
from .hub import Hub, close_hub, get_hub, open_count
from .listing import ListFollower
from .rights import RightLost, Viewer

__all__ = [
    "Batch",
    "Cursor",
    "Follower",
    "Frame",
    "Hub",
    "InvalidCursor",
    "ListFollower",
    "RightLost",
    "RunIsGone",
    "View",
    "Viewer",
    "close_hub",
    "get_hub",
    "open_count",
]
