"""What the commands in tools/ and the integration tests share; standard library only."""
