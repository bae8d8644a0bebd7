/* Says that it is alive, then hangs without ending: hangs APP_ID HOW
 *
 * silent: after five reports. still: goes on to report, but makes no progress any more. deaf: when it is told to end. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gmi_daemon.h"

static volatile sig_atomic_t told;

static void on_term(int signal) {
    (void)signal;
    told = 1;
}

int main(int argc, char **argv) {
    DAEMON_DATA_CFG cfg = GMI_DAEMON_DATA_CFG_INIT;
    if (argc != 3)
        return 2;
    const int silent = !strcmp(argv[2], "silent");
    if (!strcmp(argv[2], "deaf"))
        signal(SIGTERM, on_term);
    if (GMI_DaemonInit(&cfg, atoi(argv[1]), 0, 0) < 0 || GMI_DaemonRegister(&cfg) < 0)
        return 1;
    for (uint32_t round = 1;; round++) {
        usleep(20000);
        while (told || (silent && round > 5))
            pause();
        GMI_DaemonReportProgress(&cfg, round < 5 ? round : 5);
    }
}
