//! A changed configuration reloads the service that uses it, and no other; a comment reloads nobody.

use std::fs;

use crate::container::{Container, image};

/// Says what it is told when it starts: each line is one process.
fn service(name: &str, package: &str) -> String {
    format!(
        "command = [\"/bin/sh\", \"-c\", \"echo started >> /tmp/{name}; exec sleep 2147483647\"]\n\
         [[triggers]]\nevent = \"config.change\"\npackage = \"{package}\"\naction = \"reload\"\n"
    )
}

fn starts(container: &Container, name: &str) -> usize {
    container.run(&format!("cat /tmp/{name}")).1.lines().filter(|line| *line == "started").count()
}

#[test]
fn a_committed_change_reloads_exactly_its_service_and_a_comment_reloads_none() {
    let Some(image) = image() else { return };
    let container = Container::start(&image, |root| {
        fs::create_dir_all(root.join("etc/config")).unwrap();
        for (name, port) in [("camera", 80), ("radio", 81)] {
            let text = format!("config {name} 'main'\n\toption port '{port}'\n");
            fs::write(root.join("etc/config").join(name), text).unwrap();
            let file = root.join("etc/vestal/services.d").join(format!("{name}.toml"));
            fs::write(file, service(name, name)).unwrap();
        }
    });
    container.until_all_ready();
    assert_eq!((starts(&container, "camera"), starts(&container, "radio")), (1, 1));

    // What only looks different: announced it would be before the change that follows.
    container.ok("echo '# a comment' >> /etc/config/radio");
    container.ok("uci set camera.main.port=8080 && uci commit camera");
    container.until("the camera is reloaded", |it| starts(it, "camera") == 2);
    container.ok("uci set camera.main.port=8081 && uci commit camera");
    container.until("the camera is reloaded again", |it| starts(it, "camera") == 3);
    container.until_all_ready();
    assert_eq!(container.ok("uci get camera.main.port").trim(), "8081");
    assert_eq!(starts(&container, "radio"), 1);
}
