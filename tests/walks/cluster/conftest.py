from tests.support.cluster import *  # noqa: F403
