/* An application that says it is alive: heartbeat APP_ID [SERVER_PORT]
 *
 * Under the supervisor, with `[heartbeat] app-id = 7` in its definition, it needs no more than the number:
 * key, port and period come with it. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "gmi_daemon.h"

int main(int argc, char **argv) {
    DAEMON_DATA_CFG cfg = GMI_DAEMON_DATA_CFG_INIT;
    int32_t app_id = argc > 1 ? atoi(argv[1]) : 7;
    long port = argc > 2 ? atol(argv[2]) : 0;

    GMI_RESULT result = GMI_DaemonInit(&cfg, app_id, port, 0);
    if (result >= 0)
        result = GMI_DaemonRegister(&cfg);
    if (result < 0) {
        fprintf(stderr, "heartbeat: application %d: %s\n", app_id, GMI_StrError(result));
        return 1;
    }
    printf("registered\n");
    fflush(stdout);

    for (;;) {
        usleep(100000); /* One round of the work that it is here for. */
        result = GMI_DaemonReport(&cfg);
        if (result < 0)
            fprintf(stderr, "heartbeat: report: %s\n", GMI_StrError(result));
    }
}
