//! `jshn.sh`: what is built can be printed and read again, whatever is in it.

use serde_json::{Value, json};

use super::{Root, each_shell};

const WITH: &str = ". \"$IPKG_INSTROOT/usr/share/libubox/jshn.sh\"\n";

fn prints(root: &Root, text: &str) -> String {
    let ran = root.shell(&format!("{WITH}{text}"));
    assert_eq!(ran.errors, "", "{text}");
    ran.printed
}

#[test]
fn every_type_is_printed_as_json() {
    each_shell(|root| {
        let printed = prints(
            root,
            "json_init\njson_add_string text 'a \"b\" \\ c'\njson_add_string with-dash x\njson_add_int number 010\n\
             json_add_int words 7up\njson_add_int negative -3\njson_add_int none x\njson_add_boolean yes 1\njson_add_boolean no 0\n\
             json_add_boolean word true\njson_add_double half 0.5\njson_add_double whole 2\njson_add_double large -1.5e+9\n\
             json_add_null nothing\njson_add_object table\njson_add_array list\njson_add_string '' one\njson_add_int '' 2\n\
             json_add_object\njson_add_string in deep\njson_close_object\njson_add_array\njson_close_array\njson_close_array\n\
             json_close_object\njson_add_int number 11\njson_dump\n",
        );
        assert!(printed.ends_with('\n'));
        let value: Value =
            serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"));
        assert_eq!(
            value,
            json!({
                "text": "a \"b\" \\ c", "with-dash": "x", "number": 11, "words": 7, "negative": -3, "none": 0,
                "yes": true, "no": false, "word": false, "half": 0.5, "whole": 2.0, "large": -1.5e9, "nothing": null,
                "table": { "list": ["one", 2, { "in": "deep" }, []] },
            })
        );
        assert!(printed.starts_with("{ \"text\": "), "keys stay in their order: {printed}");
    });
}

/// Every byte but NUL that UTF-8 knows, in a key and in a value.
#[test]
fn no_character_is_lost_or_changed() {
    let mut text: String = (1..=0x7f_u8).map(char::from).collect();
    text.push_str("äöü € 漢字 😀 \u{80}\u{9f}\u{a0}\u{feff}");
    let build = "text=$(cat \"$FAKES/text\"; printf .)\ntext=${text%.}\njson_init\n\
                 json_add_string \"$text\" \"$text\"\njson_dump\n";
    // Also one at a time: text without a quote takes a shorter way.
    let single = (1..0x20_u8).map(|character| format!("a{}b", char::from(character)));
    let texts: Vec<String> = single.chain([text]).collect();
    each_shell(|root| {
        for text in &texts {
            root.write("fakes/text", text);
            let printed = prints(root, build);
            let value: Value =
                serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"));
            assert_eq!(value, json!({ text.clone(): text }));
        }
    });
}

#[test]
fn the_form_on_several_lines_says_the_same() {
    each_shell(|root| {
        let build = "json_init\njson_add_string a b\njson_add_array c\njson_add_int '' 1\njson_add_int '' 2\n\
                     json_close_array\njson_add_object e\njson_close_object\n";
        let printed = prints(root, &format!("{build}json_dump -i\n"));
        assert_eq!(
            printed,
            "{\n\t\"a\": \"b\",\n\t\"c\": [\n\t\t1,\n\t\t2\n\t],\n\t\"e\": {\n\t}\n}\n"
        );
        assert_eq!(prints(root, &format!("{build}json_pretty\njson_dump\n")), printed);
        let compact = prints(root, &format!("{build}json_compact\njson_dump\n"));
        assert_eq!(compact, "{ \"a\": \"b\", \"c\": [ 1, 2 ], \"e\": { } }");
        assert_eq!(prints(root, &format!("{build}json_dump -n\n")), compact);
    });
}

#[test]
fn what_was_built_can_be_looked_at() {
    each_shell(|root| {
        let printed = prints(
            root,
            "json_init\njson_add_string name 'it is'\njson_add_string empty ''\njson_add_array list\njson_add_string '' x\njson_add_string '' y\n\
             json_add_object\njson_get_index where\njson_close_object\njson_close_array\njson_add_object table\njson_add_int n 4\njson_close_object\n\
             json_get_var v name && echo \"$v\"\njson_get_var v missing || echo \"none $v\"\njson_get_var v missing other && echo \"$v\"\n\
             json_get_var v empty full && echo \"$v\"\njson_get_vars name:else missing:else\necho \"$name, $missing\"\necho \"at $where\"\n\
             json_get_type t list; echo \"$t\"\njson_is_a table object && echo yes\njson_is_a table array || echo no\n\
             json_get_keys k; echo \"$k\"\njson_get_keys k list; echo \"$k\"\njson_select list\njson_get_values v; echo \"${v%J_*}\"\n\
             json_select 3 && json_select ..\njson_select ..\njson_select table; json_get_var n n; echo \"$n\"\njson_select\njson_get_keys k; echo \"$k\"\n\
             each() { echo \"each $*\"; }\njson_for_each_item each table more\njson_for_each_item each name\njson_for_each_item \"each own\" table\n",
        );
        assert_eq!(
            printed,
            "it is\nnone \nother\nfull\nit is, else\nat 3\narray\nyes\nno\nname empty list table\n1 2 3\nx y \n4\n\
             name empty list table\neach 4 n more\neach it is \neach own 4 n\n"
        );
    });
}

#[test]
fn what_is_not_there_is_said_unless_told_not_to() {
    each_shell(|root| {
        let ran = root.shell(&format!(
            "{WITH}json_init\njson_select nowhere; echo $?\njson_push_string x; echo $?\n_json_no_warning=1\njson_select nowhere; echo $?\n"
        ));
        assert_eq!(ran.printed, "1\n1\n1\n");
        assert_eq!(
            ran.errors,
            "WARNING: Variable 'nowhere' does not exist or is not an array/object\nWARNING: Not in an array\n"
        );
    });
}

#[test]
fn each_namespace_is_a_tree_of_its_own() {
    each_shell(|root| {
        let printed = prints(
            root,
            "json_init\njson_add_int outer 1\njson_set_namespace other before\njson_init\njson_add_int inner 2\njson_dump\n\
             json_set_namespace \"$before\"\njson_add_int more 3\njson_dump\njson_cleanup\njson_init\njson_dump\n\
             json_set_namespace other\njson_dump\njson_cleanup\nset | grep -c '^other[JKTUNC]' || :\n",
        );
        assert_eq!(
            printed,
            "{ \"inner\": 2 }\n{ \"outer\": 1, \"more\": 3 }\n{ }\n{ \"inner\": 2 }\n0\n"
        );
    });
}

#[test]
fn elements_and_fields_have_short_forms() {
    each_shell(|root| {
        let printed = prints(
            root,
            "json_init\njson_add_array l\njson_push_string a\njson_push_int 1\njson_push_boolean 1\njson_push_double 1.5\njson_push_null\n\
             json_close_array\njson_add_fields x:int=5 y=text z:boolean=0\njson_dump\n",
        );
        assert_eq!(
            printed,
            "{ \"l\": [ \"a\", 1, true, 1.5, null ], \"x\": 5, \"y\": \"text\", \"z\": false }\n"
        );
    });
}

/// The paths of a jail, for one: `/a.b` and `/a-b` would share a variable.
#[test]
fn names_that_differ_in_their_signs_only_stay_apart() {
    each_shell(|root| {
        let printed = prints(
            root,
            "json_init\njson_add_string /a-b 1\njson_add_string /a.b 2\njson_add_string /a-b 3\njson_dump\n\
             json_get_var v /a.b; echo $v; json_get_var v /a-b; echo $v\njson_get_keys keys\n\
             for key in $keys; do json_get_var v $key; echo $v; done\njson_init\njson_dump\n",
        );
        assert_eq!(printed, "{ \"/a-b\": \"3\", \"/a.b\": \"2\" }\n2\n3\n3\n2\n{ }\n");
    });
}

/// `jshn -r` prints these calls; the one in front stands for it.
#[test]
fn text_is_read_by_the_calls_that_jshn_prints() {
    each_shell(|root| {
        root.program(
            "bin/jshn",
            "#!/bin/sh\n[ \"$1 $2\" = '-r {\"a\":[1]}' ] || [ \"$1\" = -R ] || exit 1\n\
             printf \"json_init;\\njson_add_array 'a';\\njson_add_int '0' 1;\\njson_close_array;\\n\"\n",
        );
        let printed = prints(
            root,
            "json_load '{\"a\":[1]}'\njson_dump\njson_cleanup\njson_load_file x\njson_dump\n",
        );
        assert_eq!(printed, "{ \"a\": [ 1 ] }\n{ \"a\": [ 1 ] }\n");
    });
}

/// A script's own variables are set, whatever they are called.
#[test]
fn a_variable_of_the_caller_is_set_whatever_its_name() {
    each_shell(|root| {
        let printed = prints(
            root,
            "json_init\njson_add_string a 1\njson_add_array b\njson_add_string '' 2\njson_close_array\n\
             for name in var dest cur key type value keys index target; do json_get_var $name a; eval \"printf '%s ' \\$$name\"; done\n\
             for n in var dest cur key type value keys target; do json_get_values $n b; eval \"printf '%s ' \\$$n\"; done\n",
        );
        assert_eq!(printed, "1 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2 ");
    });
}
