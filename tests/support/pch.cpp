// The unit that precompiles pch.hpp for the test executables, which reuse it.
