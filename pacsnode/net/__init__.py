"""The asyncio shell around `ul` and `dimse`: sockets, timers, tasks. Decides nothing of the protocol."""
