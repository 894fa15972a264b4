"""Live migration's judgement: which strategy, how long it will take, what to do on the way.

All of it is pure: samples and limits in, words and numbers out. Steps and the driver act.
"""
