-- sweep: takes back what has run out, for those who look at a ledger that no worker serves.
allow_when_full()
stamp()
sweep()
