"""The pure machines by the thousand, on a heap of events without trio."""
