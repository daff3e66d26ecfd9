import trio
from tests.virtual_time import ON_VIRTUAL_TIME
pytestmark = ON_VIRTUAL_TIME
async def test_a():
    await trio.sleep(3)
