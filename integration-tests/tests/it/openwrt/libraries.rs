//! `functions.sh`, `uci.sh`, `service.sh` and `network.sh`, as scripts use them.

use super::{Root, each_shell};

fn prints(root: &Root, text: &str) -> String {
    let ran = root.shell(&format!(". \"$IPKG_INSTROOT/lib/functions.sh\"\n{text}"));
    assert_eq!(ran.errors, "", "{text}");
    ran.printed
}

#[test]
fn words_are_appended_prepended_found_and_removed() {
    each_shell(|root| {
        let printed = prints(
            root,
            "append a one; append a 'two  x' ,; append a ''; echo \"$a\"; prepend a zero; echo \"$a\"\n\
             l='a b c'; list_contains l b && echo in; list_contains l d || echo out; list_contains none x || echo out\n\
             list_remove l b; echo \"$l\"; each() { echo \"<$*>\"; }; list_foreach l each more\n\
             for v in on 1 true yes enabled off 0 false no disabled maybe; do printf '%s' \"$(get_bool $v 9)\"; done\n",
        );
        assert_eq!(
            printed,
            "one,two  x\nzero one,two  x\nin\nout\nout\na c\n<a more>\n<c more>\n11111000009"
        );
    });
}

#[test]
fn a_configuration_is_read_into_variables() {
    each_shell(|root| {
        let printed = prints(
            root,
            "config_load tunnel; echo $?\nconfig_get p office port; echo \"$p\"\nconfig_get p home port 7; echo \"$p\"\n\
             config_get office port; config_get r office remote; echo \"$r\"\nconfig_get_bool b office verbose 0; echo $b\n\
             config_get_bool b home verbose 1; echo $b\nconfig_get t office TYPE; echo $t\n\
             show() { echo \"show $*\"; }\nconfig_foreach show tunnel x; config_foreach show; config_list_foreach office remote show y\n\
             config_set office port 9; config_get p office port; echo $p\nconfig_unset office port; config_get p office port none; echo $p\n\
             config_load missing || echo \"none: $CONFIG_SECTIONS\"\n",
        );
        assert_eq!(
            printed,
            "0\n4000\n7\n4000\na.example.org 1 it's \"b\"\n1\n1\ntunnel\nshow office x\nshow off x\nshow home x\n\
             show main\nshow office\nshow off\nshow home\nshow a.example.org 1 y\nshow it's \"b\" y\n9\nnone\nnone: \n"
        );
    });
}

#[test]
fn callbacks_see_the_configuration_go_by() {
    each_shell(|root| {
        let printed = prints(
            root,
            "config_cb() { echo \"section $*\"; }\noption_cb() { echo \"option $*\"; }\nlist_cb() { echo \"list $*\"; }\n\
             LIST_SEP=,\nconfig_load tunnel\nconfig_get r office remote; echo \"$r\"\nreset_cb; config_load fstab\n\
             config_load tunnel; config_get l office remote_LENGTH; echo \"$l\"\n",
        );
        assert_eq!(
            printed,
            "section global main\noption enabled 1\nsection tunnel office\noption port 4000\nlist remote a.example.org 1\n\
             list remote it's \"b\"\noption verbose yes\nsection tunnel off\noption enabled no\nsection tunnel home\nsection \n\
             a.example.org 1,it's \"b\"\n2\n"
        );
    });
}

#[test]
fn an_image_that_is_being_built_has_no_configuration() {
    each_shell(|root| {
        let printed = prints(
            root,
            "unset UCI_CONFIG_DIR; config_load tunnel; echo \"$? $CONFIG_SECTIONS\"\n",
        );
        assert_eq!(printed, "0 \n");
    });
}

#[test]
fn every_function_of_uci_is_one_call() {
    each_shell(|root| {
        root.program("bin/uci", "#!/bin/sh\nprintf '%s|' \"$@\" >> \"$FAKES/uci\"\necho >> \"$FAKES/uci\"\necho new\n[ \"$FAIL\" = '' ]\n");
        let printed = prints(
            root,
            "export FAIL=\nuci_set p s o 'v w'; uci_add_list p s o v; uci_remove p s; uci_remove p s o; uci_remove_list p s o v\n\
             uci_rename p s n; uci_rename p s o n; uci_revert p; uci_commit p; uci_commit; uci_get p s o; uci_get_state p s o\n\
             uci_set_state p s o v; uci_toggle_state p s '' v; uci_add p t; echo \"section $CONFIG_SECTION\"; uci_add p t mine\n\
             echo \"section $CONFIG_SECTION\"; FAIL=1; uci_get p s o default; echo $?\n",
        );
        assert!(
            printed.contains("section new\n") && printed.contains("section mine\n"),
            "{printed}"
        );
        assert!(printed.ends_with("new\ndefault\n1\n"), "{printed}");
        let called = root.read("fakes/uci").replace("-c|/etc/config|", "");
        assert_eq!(
            called,
            "set|p.s.o=v w|\nadd_list|p.s.o=v|\ndel|p.s|\ndel|p.s.o|\ndel_list|p.s.o=v|\nrename|p.s=n|\nrename|p.s.o=n|\n\
             revert|p|\ncommit|p|\ncommit|\n-q|get|p.s.o|\n-P|/var/state|-q|get|p.s.o|\n-P|/var/state|set|p.s.o=v|\n\
             -P|/var/state|revert|p.s|\n-P|/var/state|set|p.s=v|\nadd|p|t|\nset|p.mine=t|\n-q|get|p.s.o|\n"
        );
    });
}

#[test]
fn accounts_are_added_once_and_with_free_numbers() {
    each_shell(|root| {
        root.write(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/ash\nold:x:32768:32768::/:/bin/false\n",
        );
        root.write("etc/group", "root:x:0:\nold:x:32768:a\n");
        root.write("etc/shadow", "root:x:0:0:99999:7:::\n");
        let printed = prints(
            root,
            "user_exists root && group_exists root && echo both\nuser_exists roo || echo no\nuser_add new; user_add it 77 88 'It is' /srv /bin/sh\n\
             group_add_next new; group_add_next old; group_add fixed 99; group_add_user old b; group_add_user old b; group_add_user new c\n",
        );
        assert_eq!(printed, "both\nno\n32769\n32768\n");
        assert_eq!(
            root.read("etc/passwd"),
            "root:x:0:0:root:/root:/bin/ash\nold:x:32768:32768::/:/bin/false\nnew:x:32769:32769:new:/var/run/new:/bin/false\n\
             it:x:77:88:It is:/srv:/bin/sh\n"
        );
        assert_eq!(
            root.read("etc/group"),
            "root:x:0:\nold:x:32768:a,b\nnew:x:32769:c\nfixed:x:99:\n"
        );
        assert_eq!(
            root.read("etc/shadow"),
            "root:x:0:0:99999:7:::\nnew:x:0:0:99999:7:::\nit:x:0:0:99999:7:::\n"
        );
    });
}

#[test]
fn programs_are_started_and_stopped_by_start_stop_daemon() {
    each_shell(|root| {
        root.program(
            "bin/start-stop-daemon",
            "#!/bin/sh\nprintf '%s|' \"$@\" >> \"$FAKES/daemon\"\necho >> \"$FAKES/daemon\"\ncase \" $* \" in *' -t '*) exit 1;; esac\n",
        );
        root.shell("start-stop-daemon found");
        if root.read("fakes/daemon").is_empty() {
            eprintln!("this shell, a static busybox, has its own: not tested with it");
            return;
        }
        root.write("fakes/daemon", "");
        let ran = root.shell(
            ". \"$IPKG_INSTROOT/lib/functions/service.sh\"\nservice_start /bin/true -a 'b c'\nSERVICE_DAEMONIZE=1 SERVICE_WRITE_PID=1\n\
             SERVICE_UID=nobody SERVICE_GID=nogroup\nservice_start /bin/true\nservice_stop /bin/true; echo $?\nservice_reload /bin/true\n\
             SERVICE_SIG=USR2 service_signal /bin/true\nservice_check /bin/true; echo $?\nSERVICE_DEBUG=1 service_start /bin/true x\n\
             service -S /no/such; echo $?\nservice -X /bin/true; echo $?\n",
        );
        assert_eq!(
            root.read("fakes/daemon"),
            "-q|-S|-x|/bin/true|--|-a|b c|\n\
             -q|-S|-b|-m|-p|/var/run/true.pid|-c|nobody:nogroup|-x|/bin/true|\n\
             -q|-K|-s|TERM|-p|/var/run/true.pid|-c|nobody:nogroup|-x|/bin/true|\n\
             -q|-K|-t|-p|/var/run/true.pid|-c|nobody:nogroup|-x|/bin/true|\n\
             -q|-K|-s|HUP|-p|/var/run/true.pid|-c|nobody:nogroup|-x|/bin/true|\n\
             -q|-K|-s|USR2|-p|/var/run/true.pid|-c|nobody:nogroup|-x|/bin/true|\n\
             -q|-K|-t|-p|/var/run/true.pid|-c|nobody:nogroup|-x|/bin/true|\n"
        );
        assert!(ran.printed.starts_with("0\n1\nstart-stop-daemon -q -S -b"), "{ran:?}");
        assert!(ran.errors.contains("'/no/such' can't be executed"), "{}", ran.errors);
        assert!(ran.errors.contains("no action '-X'"), "{}", ran.errors);
    });
}

#[test]
fn the_network_is_asked_once_and_looked_into_for_each_question() {
    each_shell(|root| {
        root.answer("network.interface.dump", "{ \"interface\": [ ] }\n");
        root.answer("filter.0", "export ip='192.168.1.1'; ");
        root.answer("filter.1", "export dev='br-lan'; ");
        root.answer("filter.3", "export wan='wan6'; ");
        root.answer("filter.4", "export _n_up='1'; ");
        let ran = root.shell(
            ". \"$IPKG_INSTROOT/lib/functions/network.sh\"\nnetwork_get_ipaddr ip lan && echo $ip\nnetwork_get_device dev lan && echo $dev\n\
             network_get_gateway gw lan || echo \"none${gw+ set}\"\nnetwork_find_wan6 wan && echo $wan\nnetwork_is_up lan && echo up\n\
             network_is_up lan || echo down\nnetwork_flush_cache; network_get_subnets six lan || echo none\n",
        );
        assert_eq!(
            (ran.printed.as_str(), ran.errors.as_str()),
            ("192.168.1.1\nbr-lan\nnone\nwan6\nup\ndown\nnone\n", "")
        );
        let filters = root.read("fakes/filters");
        for (line, wanted) in filters.lines().zip([
            "-s { \"interface\": [ ] } -e ip=@.interface[@.interface='lan']['ipv4-address'][0].address",
            "-s { \"interface\": [ ] } -e dev=@.interface[@.interface='lan'].l3_device",
            "-l 1 -s { \"interface\": [ ] } -e gw=@.interface[@.interface='lan'].route[@.target='0.0.0.0' && !@.table].nexthop",
            "-l 1 -s { \"interface\": [ ] } -e wan=@.interface[@.route[@.target='::' && !@.table]].interface",
        ]) {
            assert_eq!(line, wanted);
        }
        assert_eq!(root.read("fakes/calls").lines().count(), 2, "once, and again after the flush");
    });
}

#[test]
fn a_global_address_is_preferred_to_one_of_the_site_or_the_link() {
    each_shell(|root| {
        root.answer("filter.0", "export _n_own='fe80::1/64 fd00::1/64 2001:db8::1/64'; ");
        root.answer("filter.1", "export _n_addresses='fd01::1 fd02::1'; ");
        root.answer("filter.2", "export _n_masks='60 62'; ");
        root.answer("filter.3", "export _n_own='fe80::1/64 fd00::1/64'; ");
        let ran = root.shell(
            "__NETWORK_CACHE={}; . \"$IPKG_INSTROOT/lib/functions/network.sh\"\nnetwork_get_subnet6 a lan; echo $a\nnetwork_get_subnet6 a lan; echo $a\n",
        );
        assert_eq!(
            (ran.printed.as_str(), ran.errors.as_str()),
            ("2001:db8::1/64\nfd00::1/64\n", "")
        );
    });
}
