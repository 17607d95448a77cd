"""What a pair is and how it must behave: pure values and rules, no I/O, no clock, no asyncio."""
