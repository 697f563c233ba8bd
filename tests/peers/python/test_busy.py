"""A handler that does something else than to receive, and a client that sends pings or closes meanwhile."""

import unittest

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK

import sockeye

SOON = 2
"""Seconds that the client waits for an answer: half as long as the handler is busy."""


class Busy(unittest.IsolatedAsyncioTestCase):
    async def test_pings_are_answered(self):
        async with sockeye.test_server() as (servers, errors):
            async with connect(f"ws://{servers[1]}/busy", ping_interval=0.5, ping_timeout=SOON, proxy=None) as client:
                # Unanswered, the client would have closed with 1011 by then.
                self.assertEqual(await client.recv(), "done")
            self.assertEqual(errors, [])

    async def test_a_close_is_answered(self):
        async with sockeye.test_server() as (servers, errors):
            client = await connect(f"ws://{servers[1]}/busy", close_timeout=SOON, ping_interval=None, proxy=None)
            await client.close()
            with self.assertRaises(ConnectionClosedOK):
                await client.recv()


if __name__ == "__main__":
    unittest.main()
