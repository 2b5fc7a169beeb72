// Every kernel for any processor.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "operations.h"

#define GORAE_SET portable
#include "lanes_portable.h"
#include "integers_portable.h"
#include "every_operation.h"
