from tests.support.running import *  # noqa: F403
