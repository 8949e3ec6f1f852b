// QCORE_API marks the namespace of public declarations, so that a shared library exports them and
// nothing else. Of a static one, into whatever it is linked, nothing is exported.
#pragma once

#if defined(QCORE_SHARED) && defined(__GNUC__)
#define QCORE_API [[gnu::visibility("default")]]
#else
#define QCORE_API
#endif
