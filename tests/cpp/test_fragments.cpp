#include <gtest/gtest.h>

#include "fragments.h"

TEST(Fragments, Placeholder) {}
