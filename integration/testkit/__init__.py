"""All tests of the project, as groups that go on when one fails: `integration/test`.

machine.py says what this computer is and what it lacks; remains.py sees that runs do not meet, and clears
away what a killed one left; programs.py runs commands; rust.py runs the test programs; groups.py says which
tests there are. The lab's own tests are labkit's.
"""
