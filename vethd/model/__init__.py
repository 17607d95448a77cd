"""The values and rules that define a pair and its behaviour. They are pure: no I/O, no clock, no asyncio."""
