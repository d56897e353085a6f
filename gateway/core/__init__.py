"""What the gateway decides: plain synchronous code over plain data. No asyncio, no clock, no I/O."""
