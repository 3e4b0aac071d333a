"""What engines, judges and trainers share about an OpenAI-compatible endpoint.

    address    where it is, what opens it, and what names a model there      faults    what the SDK's errors mean
    journal    every finished call, before it counts, and what all cost      budget    caps on calls and cost
    pricing    what tokens cost                                              pacing    how many at a time, what wait

Nothing of the SDK is imported before it is used.
"""
