/* Says five times that it is alive, then hangs: hangs APP_ID silent, or hangs APP_ID still, which goes on to report but
 * makes no progress any more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gmi_daemon.h"

int main(int argc, char **argv) {
    DAEMON_DATA_CFG cfg = GMI_DAEMON_DATA_CFG_INIT;
    if (argc != 3)
        return 2;
    if (GMI_DaemonInit(&cfg, atoi(argv[1]), 0, 0) < 0 || GMI_DaemonRegister(&cfg) < 0)
        return 1;
    for (uint32_t round = 1;; round++) {
        usleep(20000);
        if (round > 5 && !strcmp(argv[2], "silent"))
            pause();
        GMI_DaemonReportProgress(&cfg, round < 5 ? round : 5);
    }
}
